// The nodes of a workflow, or of a box of it, as rows of which only those in sight are drawn.
