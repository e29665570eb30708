"""Exams that a new reader, backbone, method, writer or dataset inherits, and small fake data in the real layouts."""
