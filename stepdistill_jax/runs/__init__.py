"""One run: how it starts, what keeps it from being lost, its checkpoints.

It belongs to no engine. The `t5x` command starts a run on whichever there is;
`embedded_t5x` calls the guards, signals and locks at the places where things go
wrong; checkpoints of either engine are chosen and read here.
"""
