"""A version meets viewers: split, watch, verdict, promote or abort."""
