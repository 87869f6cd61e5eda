"""The chosen subnet to its real accuracy: recipes by name, teachers, the training itself."""
