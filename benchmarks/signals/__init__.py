"""What sparse autoencoders are for, on real pictures, texts and signals: one command, one table, one page each."""
