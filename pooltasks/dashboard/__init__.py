"""The operations room: live pages of the pools inside Flower."""
