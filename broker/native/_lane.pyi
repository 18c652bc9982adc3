"""Nothing for Python: lanes are linked and taken by native code only."""
