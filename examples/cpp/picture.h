// A picture and the way from it to a model's input: that of `paddle-vitae predict`, to the bit.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

struct Picture {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3], red, green, blue

  const uint8_t* row(int y) const { return pixels.data() + size_t(3) * width * y; }
};

// Reads a PPM file (P6, 8 bits), which ImageMagick, Pillow, ffmpeg and others write.
inline Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  std::string words[4];  // P6, width, height, largest value
  for (auto& word : words) {
    while (file >> word && word[0] == '#') file.ignore(1 << 20, '\n');
  }
  Picture picture;
  picture.width = std::atoi(words[1].c_str());
  picture.height = std::atoi(words[2].c_str());
  file.get();  // one space
  if (words[0] != "P6" || words[3] != "255" || picture.width < 1 || picture.height < 1 ||
      int64_t(picture.width) * picture.height > 100'000'000)
    throw std::runtime_error(path + ": expected a PPM file (P6) of 8 bits");
  picture.pixels.resize(size_t(3) * picture.width * picture.height);
  if (!file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size()))
    throw std::runtime_error(path + ": ends too early");
  return picture;
}

// How much each pixel of a line gives to each of the resized line.
struct Weights {
  int first;                // the first pixel that is looked at
  std::vector<int> values;  // in units of 2^-kBits
};

constexpr int kBits = 22;  // Pillow's fixed point for 8-bit pictures

inline double cubic(double x) {  // of Keys, a = -1/2
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

inline double triangle(double x) { return std::max(1 - std::abs(x), 0.0); }

// The antialiased filter: as wide as `from / to` pixels where a side shrinks.
inline std::vector<Weights> make_weights(int from, int to, bool bicubic) {
  const double scale = double(from) / to, stretch = std::max(scale, 1.0);
  const double reach = (bicubic ? 2 : 1) * stretch;
  std::vector<Weights> result;
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(int(centre - reach + 0.5), 0);
    const int last = std::min(int(centre + reach + 0.5), from);
    std::vector<double> shares;
    double sum = 0;
    for (int x = first; x < last; ++x) {
      const double at = (x - centre + 0.5) * (1 / stretch);
      shares.push_back(bicubic ? cubic(at) : triangle(at));
      sum += shares.back();
    }
    Weights weights{first, {}};
    for (double share : shares)
      weights.values.push_back(int(std::round(share / sum * (1 << kBits))));
    result.push_back(weights);
  }
  return result;
}

inline uint8_t rounded(int64_t sum) {
  return uint8_t(std::clamp<int64_t>((sum + (1 << (kBits - 1))) >> kBits, 0, 255));
}

inline Picture resized_across(const Picture& from, int width, bool bicubic) {
  if (width == from.width) return from;
  Picture result{width, from.height, {}};
  const auto weights = make_weights(from.width, width, bicubic);
  for (int y = 0; y < from.height; ++y)
    for (const auto& w : weights)
      for (int c = 0; c < 3; ++c) {
        int64_t sum = 0;
        for (size_t k = 0; k < w.values.size(); ++k)
          sum += int64_t(w.values[k]) * from.row(y)[3 * (w.first + k) + c];
        result.pixels.push_back(rounded(sum));
      }
  return result;
}

inline Picture resized_down(const Picture& from, int height, bool bicubic) {
  if (height == from.height) return from;
  Picture result{from.width, height, {}};
  for (const auto& w : make_weights(from.height, height, bicubic))
    for (int x = 0; x < 3 * from.width; ++x) {
      int64_t sum = 0;
      for (size_t k = 0; k < w.values.size(); ++k)
        sum += int64_t(w.values[k]) * from.row(w.first + int(k))[x];
      result.pixels.push_back(rounded(sum));
    }
  return result;
}

// Pillow's Image.resize, with the shape kept: along the lines, rounded to 8 bits, then down the
// columns. Pillow 13 shrinks pictures more than twice as high as wide in the other order, earlier
// ones those of more than a hundred times; that is all in which their results differ.
inline Picture resized(const Picture& from, int width, int height, bool bicubic) {
  if (height < from.height && from.height > 2 * from.width)
    return resized_across(resized_down(from, height, bicubic), width, bicubic);
  return resized_down(resized_across(from, width, bicubic), height, bicubic);
}

// A picture as the graph takes it: [3, H, W], resized, its centre, normalised by channel.
// `how` is the `preprocessing` of export.json.
inline std::vector<float> model_input(const Picture& picture, const Json& how) {
  const auto& size = how.at("image_size", 'a').items;
  const int height = int(size.at(0).number), width = int(size.at(1).number);
  const double part = how.at("crop_pct", 'd').number;
  const int cover_height = int(std::floor(height / part));
  const int cover_width = int(std::floor(width / part));
  int new_width = cover_width, new_height = cover_height;  // the shorter side decides
  if (int64_t(picture.width) * cover_height <= int64_t(picture.height) * cover_width)
    new_height = int(double(cover_width) * picture.height / picture.width);
  else
    new_width = int(double(cover_height) * picture.width / picture.height);
  const Picture whole = resized(picture, new_width, new_height,
                                how.at("interpolation", 's').text == "bicubic");
  // halves go to the even number, as in Python
  const int left = int(std::nearbyint((new_width - width) / 2.0));
  const int top = int(std::nearbyint((new_height - height) / 2.0));

  std::vector<float> input;  // [3, H, W]
  for (int c = 0; c < 3; ++c) {
    const double mean = how.at("mean", 'a').items.at(c).number * 255;
    const double deviation = how.at("std", 'a').items.at(c).number * 255;
    const float scale = float(1 / deviation), shift = float(-mean / deviation);
    for (int y = top; y < top + height; ++y)
      for (int x = left; x < left + width; ++x)
        input.push_back(whole.row(y)[3 * x + c] * scale + shift);
  }
  return input;
}
