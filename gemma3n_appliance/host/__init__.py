"""The machine around the model: its files, its clock, its logs."""
