"""What may be built: choices, network graphs and their exact costs. Never imports torch."""
