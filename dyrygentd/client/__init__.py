"""Clients of the daemon: `sync.Client` on the standard library, `aio.AsyncClient` on aiohttp."""
