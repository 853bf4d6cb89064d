"""Tests through real Envoy with every plane running. A package, so that what they share ends with the last of them."""
