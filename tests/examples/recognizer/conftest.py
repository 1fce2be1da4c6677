"""The recognizer's modules are imported as they import each other."""
import os
import sys

sys.path.insert(0, os.path.abspath(os.path.join(
    os.path.dirname(__file__), '..', '..', '..', 'examples', 'recognizer')))
