"""Many processes: ranks that compute one run together, what failures cost, and a thin layer over Ray."""
