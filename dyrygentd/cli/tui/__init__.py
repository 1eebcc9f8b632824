"""`dyrygentctl watch` on a terminal: one workflow of any size on one screen, which follows it and acts on it.

`view` is the screen. It is told by `feed`, which asks the daemon and waits for it when it is away; what is shown of boxes is kept
by `outline`, and drawn line by line by `rows` and `lines`, with the letters of `marks`; `deeds` knows what a key would do, and
`dialogs` asks before it is done. Only `watch` imports this, inside its function: Textual takes half a second, and is there with
the extra ``tui`` alone.

Text from outside (names, errors, reasons) goes through `Glyphs.plain` and into `rich.text.Text`, and is never read as markup.
"""
