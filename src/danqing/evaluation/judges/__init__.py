"""Small networks, trained on the data, and programs that judge images."""
