"""The doctor: what a user should know before trusting a net or solver.

``reading`` makes a Target of a file, ``infer_shapes`` builds its nets as far as they can be built,
the modules named after a theme contain the checks, ``examine`` runs them and ``report`` prints.
"""
