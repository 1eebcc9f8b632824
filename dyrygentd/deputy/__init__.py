"""What a process that does not lead serves: a standby, or a gateway on another host of the same database.

`Deputy` has the methods that clients' requests call on a scheduler. It reads the store, and writes nothing there: what is to be
changed is left as a letter for whoever leads. It never talks to the broker but to ask::

    deputy     the face of the room, put together of the scheduler's own parts
    mirror     unfinished workflows, as they are stored, as long as somebody looks
    sending    letters to whoever leads, and its answers
    lookout    who leads, and how old what is stored is
"""
