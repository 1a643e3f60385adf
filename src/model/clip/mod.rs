//! CLIP's towers: weight names, configurations, tokenizer, the vision tower as an ONNX graph, the text tower in candle.
