"""From journals to what people read: reports, bills, comparisons."""
