"""Hosts made of network namespaces, with the real daemon, real servers and real workers on them, and what can befall them."""
