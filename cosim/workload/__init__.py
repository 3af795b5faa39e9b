"""What is computed: model descriptions, the op vocabulary, graphs of a prefill and of a decode step."""
