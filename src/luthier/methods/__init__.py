"""Which weights move. One file per method; the file name is the name in a Spec."""
