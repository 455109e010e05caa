"""The peers: what the benchmark runs beside Studio, each as a process of its own."""
