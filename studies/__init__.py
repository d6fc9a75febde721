"""Studies of this repository: the models that they train and the files that declare them."""
