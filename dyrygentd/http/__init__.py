"""The daemon's HTTP side: routes, event streams and sockets. The home of aiohttp on the server's side."""
