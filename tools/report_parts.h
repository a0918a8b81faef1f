// Texts that are built into the program for `dogstar report` (cmake/embed.cmake makes them from files).
#pragma once

#include <string_view>

namespace dogstar {

extern const std::string_view kReportPage;    // tools/report_page.html
extern const std::string_view kChartLibrary;  // Chart.js (MIT), from the system's package libjs-chart.js

}  // namespace dogstar
