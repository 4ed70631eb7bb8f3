"""From a graph to a torch module whose tensors lie in one flat vector."""
