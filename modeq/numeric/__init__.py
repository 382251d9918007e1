"""Problems, the discrete optimizer, modified flows, and their comparison."""
