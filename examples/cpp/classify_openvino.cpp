// Classifies pictures by an export to onnx, in OpenVINO: the libraries of its Python package.
#include <openvino/openvino.hpp>

#include "classify.h"

int main(int argc, char** argv) {
  return classify(argc, argv, "onnx", [](const std::string& folder) -> Run {
    // Without being told, OpenVINO takes bfloat16 wherever the processor has it.
    ov::CompiledModel model = ov::Core().compile_model(
        folder + "/model.onnx", "CPU", ov::hint::inference_precision(ov::element::f32),
        ov::num_streams(1));
    return [model](std::vector<float>& input, int height, int width) mutable {
      ov::InferRequest request = model.create_infer_request();
      request.set_input_tensor(
          ov::Tensor(ov::element::f32, {1, 3, size_t(height), size_t(width)}, input.data()));
      request.infer();
      const ov::Tensor logits = request.get_output_tensor();  // [1, K]
      const float* first = logits.data<float>();
      return std::vector<float>(first, first + logits.get_size());
    };
  });
}
