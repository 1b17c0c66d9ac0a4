"""What does the flow cost? One module per benchmark; `python -m benchmarks.run` runs them."""
