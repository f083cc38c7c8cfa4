"""The doctor: what a user should know before trusting a net or solver.

``reading`` makes a Case of a file, ``survey`` builds its nets as far as they can be built, the
modules named after a theme hold the checks, ``examine`` runs them and ``report`` prints.
"""
