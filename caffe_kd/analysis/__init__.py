"""Static analysis of nets and solvers: what they are, cost and teach, without training."""
