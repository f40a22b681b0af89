"""What is connected to what: variables, bindings, build-time checks; YAML in, YAML out; drawing."""
