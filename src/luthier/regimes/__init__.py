"""In which order runs follow: once; later continual and federated."""
