"""The ground floor: the words everybody else uses. Imports nothing of Luthier, and no torch."""
