"""`dyrygentctl ui`: the page with buttons, on loopback, for the one who started it.

A browser cannot open a Unix socket, and on TCP nobody knows who asks. So a process of the user serves the page to their browser
and passes what it asks on to the daemon's socket: there the kernel names the user, their rights hold, and the journal has their
name.

Theory of operation. Whoever reaches the port acts as that user, so it is reached by nobody else. Four things keep others out,
each against somebody else:

- *Other users of this machine* may connect to the port, too, and see the token in the arguments of the browser (`ps`). The
  kernel tells whose the other end of a connection is (`owners`), and those of others are closed before a byte is read.
- *Programs and pages that do not know better* have no token. The one in the printed address opens once and for some minutes,
  and is exchanged for a cookie that no script reads (`entry`). Cookies are shared by all ports of a host, so that a server on
  another port may be sent it: that one is stopped by the first.
- *Pages of strangers* in the same browser: names that lead to this machine (DNS rebinding) are no Host, and what another origin
  asks is refused, by Origin and Sec-Fetch-Site and by a header that only one's own scripts may set (`checks`).
- *The page itself*, should something in it be turned against its user, reaches what it has buttons and views for (`targets`),
  and not the arguments and values that the redaction leaves out.

Rejected: TLS (a certificate that nobody has signed is clicked away), a password (it would have to be kept), the path as a
secret (it stands in histories), a name of its own below `localhost` (not every system resolves it).
"""
