"""What a node costs: figures of the real daemon beside a floor or a peer that was measured in the same run."""
