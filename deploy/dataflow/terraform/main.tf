# Bucket, image repository, service account and a launcher on Cloud Run for shardmill on Dataflow.
terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0"
    }
  }
}

variable "project" {
  type = string
}

variable "region" {
  type    = string
  default = "europe-west4"
}

variable "bucket" {
  type        = string
  description = "Inputs, token store, datasets, staging and temporary files."
}

variable "image" {
  type        = string
  description = "Built from deploy/Containerfile, with its tag."
}

variable "job" {
  type        = string
  description = "gs:// place of the job file."
}

variable "max_num_workers" {
  type    = number
  default = 100
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_project_service" "api" {
  for_each           = toset(["artifactregistry.googleapis.com", "compute.googleapis.com", "dataflow.googleapis.com", "run.googleapis.com"])
  service            = each.value
  disable_on_destroy = false
}

resource "google_storage_bucket" "data" {
  name                        = var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # Uploads that a killed worker began and nobody finished.
  lifecycle_rule {
    condition {
      age = 2
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  lifecycle_rule {
    condition {
      age            = 14
      matches_prefix = ["temp/", "staging/"]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_artifact_registry_repository" "images" {
  repository_id = "shardmill"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.api]
}

resource "google_service_account" "shardmill" {
  account_id   = "shardmill"
  display_name = "shardmill launcher and workers"
}

resource "google_project_iam_member" "roles" {
  for_each = toset(["roles/dataflow.admin", "roles/dataflow.worker", "roles/artifactregistry.reader"])
  project  = var.project
  role     = each.value
  member   = google_service_account.shardmill.member
}

resource "google_storage_bucket_iam_member" "data" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectAdmin"
  member = google_service_account.shardmill.member
}

resource "google_service_account_iam_member" "acts_as_itself" {
  service_account_id = google_service_account.shardmill.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.shardmill.member
}

resource "google_cloud_run_v2_job" "launcher" {
  name       = "shardmill-prepare"
  location   = var.region
  depends_on = [google_project_service.api]

  template {
    template {
      service_account = google_service_account.shardmill.email
      timeout         = "86400s"
      max_retries     = 3 # the same command goes on where the last one stopped

      containers {
        image   = var.image
        command = ["shardmill"]
        args = [
          "prepare",
          var.job,
          "--runner=DataflowRunner",
          "--project=${var.project}",
          "--region=${var.region}",
          "--temp_location=gs://${google_storage_bucket.data.name}/temp",
          "--staging_location=gs://${google_storage_bucket.data.name}/staging",
          "--sdk_container_image=${var.image}",
          "--sdk_location=container",
          "--machine_type=n2-standard-8",
          "--disk_size_gb=50",
          "--max_num_workers=${var.max_num_workers}",
          "--number_of_worker_harness_threads=1",
          "--service_account_email=${google_service_account.shardmill.email}",
        ]
        resources {
          limits = {
            cpu    = "2"
            memory = "4Gi"
          }
        }
      }
    }
  }
}

output "run" {
  value = "gcloud run jobs execute ${google_cloud_run_v2_job.launcher.name} --region=${var.region}"
}
