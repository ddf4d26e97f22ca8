"""What other libraries call things that are ours too."""
