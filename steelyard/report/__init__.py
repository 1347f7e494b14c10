"""Selection -> what people read of it: the report, its summary, the model card."""
