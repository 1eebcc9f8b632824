"""Other libraries' interfaces on top of dyrygentd, for code that was written for them."""
