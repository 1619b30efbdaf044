"""Triton kernels of attention. They read a packed `StepPlan`; each has a twin in plain torch that the tests compare."""
