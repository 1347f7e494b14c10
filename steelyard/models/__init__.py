"""Candidate networks: from YAML layers or from torchvision. `build` needs torch; the grammar does not."""
