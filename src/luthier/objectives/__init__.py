"""Which number falls. One file per objective; the file name is the name in a Spec."""
