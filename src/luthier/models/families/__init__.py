"""Where each kind of transformers model keeps its blocks, linears, embedding and head."""
