"""PyTorch in a live process: its operators, what they take, what they cost."""
