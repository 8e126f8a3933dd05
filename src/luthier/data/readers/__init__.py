"""One file per format. A reader recognises its rows and turns each into an Example."""
