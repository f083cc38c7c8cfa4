"""Static analysis of nets and solvers: structure, cost and what learns, without training."""
