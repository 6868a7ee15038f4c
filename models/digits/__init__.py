"""A small VGG-like network trained on scikit-learn's handwritten digits, and the data it needs."""
