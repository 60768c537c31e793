// scrape tells what a Prometheus does for PodMonitors: it reads them as YAML documents on its input and writes the
// configuration that the Prometheus operator makes of them for the version in its first argument, as JSON. Only how
// targets are found is changed: instead of asking an API server, Prometheus reads them, with the labels that its
// discovery of pods would have given them, from the file in the second argument.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus-operator/prometheus-operator/pkg/assets"
	"github.com/prometheus-operator/prometheus-operator/pkg/prometheus"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: scrape VERSION FILE < PODMONITORS")
	}
	monitors, err := read(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	config, err := generate(os.Args[1], monitors)
	if err != nil {
		log.Fatal(err)
	}
	if err := found(config, os.Args[2]); err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(config); err != nil {
		log.Fatal(err)
	}
}

// read takes the PodMonitors among the documents, strictly: a field that the operator does not know is an error.
func read(from io.Reader) (map[string]*monitoringv1.PodMonitor, error) {
	text, err := io.ReadAll(from)
	if err != nil {
		return nil, err
	}
	monitors := map[string]*monitoringv1.PodMonitor{}
	for _, document := range strings.Split("\n"+string(text), "\n---") {
		var kind struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			return nil, err
		}
		if kind.Kind != monitoringv1.PodMonitorsKind {
			continue
		}
		monitor := &monitoringv1.PodMonitor{}
		if err := yaml.UnmarshalStrict([]byte(document), monitor); err != nil {
			return nil, err
		}
		monitors[monitor.Namespace+"/"+monitor.Name] = monitor
	}
	if len(monitors) == 0 {
		return nil, fmt.Errorf("there is no PodMonitor in the input")
	}
	return monitors, nil
}

func generate(version string, monitors map[string]*monitoringv1.PodMonitor) (map[string]any, error) {
	server := &monitoringv1.Prometheus{}
	server.Namespace = "monitoring"
	server.Spec.Version = version
	server.Spec.ScrapeInterval = "1s"
	server.Spec.EvaluationInterval = "1s"
	generator, err := prometheus.NewConfigGenerator(nil, server)
	if err != nil {
		return nil, err
	}
	written, err := generator.GenerateServerConfiguration(server, nil, monitors, nil, nil, assets.NewTestStoreBuilder(), nil, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	// What the operator's reloader would fill in, in the one pod that there is.
	filled := strings.NewReplacer("$(SHARD)", "0", "$(POD_NAME)", "prometheus-0").Replace(string(written))
	var config map[string]any
	return config, yaml.Unmarshal([]byte(filled), &config)
}

// found replaces the discovery of each job by the file, and keeps to the namespaces that it would have asked for.
func found(config map[string]any, file string) error {
	jobs, _ := config["scrape_configs"].([]any)
	if len(jobs) == 0 {
		return fmt.Errorf("the operator made no job")
	}
	for _, one := range jobs {
		job, _ := one.(map[string]any)
		discoveries, _ := job["kubernetes_sd_configs"].([]any)
		if len(discoveries) != 1 {
			return fmt.Errorf("job %v asks in %d ways", job["job_name"], len(discoveries))
		}
		discovery, _ := discoveries[0].(map[string]any)
		if discovery["role"] != "pod" {
			return fmt.Errorf("job %v asks for %v", job["job_name"], discovery["role"])
		}
		if within, ok := discovery["namespaces"].(map[string]any); ok {
			names, _ := within["names"].([]any)
			keep := map[string]any{"action": "keep", "source_labels": []string{"__meta_kubernetes_namespace"}, "regex": fmt.Sprint(names...)}
			if len(names) != 1 {
				return fmt.Errorf("job %v asks in %d namespaces", job["job_name"], len(names))
			}
			relabelings, _ := job["relabel_configs"].([]any)
			job["relabel_configs"] = append([]any{keep}, relabelings...)
		}
		delete(job, "kubernetes_sd_configs")
		job["file_sd_configs"] = []any{map[string]any{"files": []string{file}, "refresh_interval": "1s"}}
	}
	return nil
}
