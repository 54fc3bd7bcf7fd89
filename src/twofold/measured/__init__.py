"""Tables of measurements, read into plain records; nothing is predicted here."""
