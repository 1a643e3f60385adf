// Reads manifests as the API server does, strictly: a field that the type does not have, one that
// stands twice, and a value of another type are errors.
//
//	kubernetes FILE...    one or more YAML files with any number of documents each
//
// Built-in kinds are checked against the API's own types; KEDA's and the Prometheus operator's,
// which are no part of it, against what is written down here of theirs.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// What any object has.
type object struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata,omitempty"`
}

// keda.sh/v1alpha1, as far as the chart uses it.
type scaledObject struct {
	object `json:",inline"`
	Spec   struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
			Kind string `json:"kind,omitempty"`
		} `json:"scaleTargetRef"`
		PollingInterval *int32 `json:"pollingInterval,omitempty"`
		CooldownPeriod  *int32 `json:"cooldownPeriod,omitempty"`
		MinReplicaCount *int32 `json:"minReplicaCount,omitempty"`
		MaxReplicaCount *int32 `json:"maxReplicaCount,omitempty"`
		Advanced        struct {
			Horizontal struct {
				Behavior *autoscaling.HorizontalPodAutoscalerBehavior `json:"behavior,omitempty"`
			} `json:"horizontalPodAutoscalerConfig,omitempty"`
		} `json:"advanced,omitempty"`
		Triggers []struct {
			Type     string `json:"type"`
			Metadata struct {
				BootstrapServers  string `json:"bootstrapServers"`
				ConsumerGroup     string `json:"consumerGroup"`
				Topic             string `json:"topic"`
				LagThreshold      string `json:"lagThreshold"`
				OffsetResetPolicy string `json:"offsetResetPolicy"`
				Sasl              string `json:"sasl,omitempty"`
				TLS               string `json:"tls,omitempty"`
			} `json:"metadata"`
			AuthenticationRef *struct {
				Name string `json:"name"`
			} `json:"authenticationRef,omitempty"`
		} `json:"triggers"`
	} `json:"spec"`
}

// monitoring.coreos.com/v1, as far as the chart uses it.
type serviceMonitor struct {
	object `json:",inline"`
	Spec   struct {
		Selector  meta.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
		} `json:"endpoints"`
	} `json:"spec"`
}

type prometheusRule struct {
	object `json:",inline"`
	Spec   struct {
		Groups []struct {
			Name     string `json:"name"`
			Interval string `json:"interval,omitempty"`
			Rules    []struct {
				Record      string            `json:"record,omitempty"`
				Alert       string            `json:"alert,omitempty"`
				Expr        string            `json:"expr"`
				For         string            `json:"for,omitempty"`
				Labels      map[string]string `json:"labels,omitempty"`
				Annotations map[string]string `json:"annotations,omitempty"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

var kinds = map[string]func() any{
	"v1/ConfigMap":                            func() any { return new(core.ConfigMap) },
	"v1/PersistentVolumeClaim":                func() any { return new(core.PersistentVolumeClaim) },
	"v1/Service":                              func() any { return new(core.Service) },
	"v1/ServiceAccount":                       func() any { return new(core.ServiceAccount) },
	"apps/v1/Deployment":                      func() any { return new(apps.Deployment) },
	"batch/v1/CronJob":                        func() any { return new(batch.CronJob) },
	"networking.k8s.io/v1/NetworkPolicy":      func() any { return new(networking.NetworkPolicy) },
	"policy/v1/PodDisruptionBudget":           func() any { return new(policy.PodDisruptionBudget) },
	"keda.sh/v1alpha1/ScaledObject":           func() any { return new(scaledObject) },
	"monitoring.coreos.com/v1/ServiceMonitor": func() any { return new(serviceMonitor) },
	"monitoring.coreos.com/v1/PrometheusRule": func() any { return new(prometheusRule) },
}

// Checks one document; gives its kind and name.
func check(document []byte) (string, error) {
	var head object
	if err := strict.Unmarshal(document, &head); err != nil {
		return "", err
	}
	kind := head.APIVersion + "/" + head.Kind
	name := kind + " " + head.Name
	make, known := kinds[kind]
	if !known {
		return name, fmt.Errorf("this kind is not known here")
	}
	if wrong := validation.IsDNS1123Subdomain(head.Name); len(wrong) > 0 {
		return name, fmt.Errorf("metadata.name: %s", strings.Join(wrong, "; "))
	}
	for key, value := range head.Labels {
		wrong := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if len(wrong) > 0 {
			return name, fmt.Errorf("metadata.labels %s: %s", key, strings.Join(wrong, "; "))
		}
	}
	target := make()
	if err := strict.UnmarshalStrict(document, target); err != nil {
		return name, err
	}
	return name, selects(target)
}

// A selector that does not select the pods made beside it is refused by the server, or is without
// effect.
func selects(made any) error {
	deployment, is := made.(*apps.Deployment)
	if !is {
		return nil
	}
	selector, err := meta.LabelSelectorAsSelector(deployment.Spec.Selector)
	if err != nil {
		return err
	}
	labels := deployment.Spec.Template.Labels
	for key, value := range deployment.Spec.Selector.MatchLabels {
		if labels[key] != value {
			return fmt.Errorf("the selector %s does not select the pods of the template", selector)
		}
	}
	return nil
}

func run(paths []string) error {
	checked := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if empty(document) {
				continue
			}
			name, err := check(document)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", path, name, err)
			}
			checked++
		}
	}
	if checked == 0 {
		return errors.New("nothing to check")
	}
	fmt.Printf("%d objects are what the API takes\n", checked)
	return nil
}

// Whether a document is nothing but comments.
func empty(document []byte) bool {
	text, err := strict.YAMLToJSON(document)
	return err == nil && (bytes.Equal(text, []byte("null")) || !json.Valid(text))
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kubernetes FILE...")
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
