"""What is unusual in a data set: one module for each kind of finding, and the page that shows them."""
