"""INT8 range estimators: one file an estimator."""
